package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestReadme_NamesEveryOptionOfRun(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	newRun(Process{}).command.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !strings.Contains(string(readme), "`--"+f.Name) {
			t.Errorf("README.md does not name --%s", f.Name)
		}
	})
}
