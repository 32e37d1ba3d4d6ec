package spec

// Wish is all that one origin asks for.
type Wish struct {
	Links    []Link
	Problems []LinkProblem // links that are in error, each by itself
	Warnings []string      // of what was not used
}
