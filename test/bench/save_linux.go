package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Where results go: every run into a folder that make clean removes, and with
// WRITE=1 into the documentation.
const (
	historyDir = "bin/bench"
	docsDir    = "docs"
	docsName   = "benchmarks"
)

// docsName is the name of the files in the documentation.
func (r *result) docsName() string {
	if r.Part != "" {
		return docsName + "-" + r.Part
	}
	return docsName
}

func (r *result) save(out io.Writer, o options) error {
	name := r.Date.Format("2006-01-02T150405")
	if err := r.write(historyDir, name); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "saved: %s/%s.json and .svg\n", historyDir, name); err != nil || !o.Write {
		return err
	}
	if len(r.Rows) > 0 && !slices.ContainsFunc(r.Rows, func(w row) bool { return r.noisy(w) == "" }) {
		return errors.New("the documentation stays as it is: the machine was too noisy for any row")
	}
	if err := errors.Join(r.write(docsDir, r.docsName()), r.writePage(filepath.Join(docsDir, docsName+".md"))); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "written: %s/%s.md, %[1]s/%[3]s.json and .svg\n", docsDir, docsName, r.docsName())
	return err
}

// write writes the JSON and the plot.
func (r *result) write(dir, name string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return errors.Join(
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, name+".svg"), r.plot(), 0o644),
	)
}
