package docker

import (
	"slices"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// What a container has from its image is told apart from what it was given.
func TestVariables_OfRealEngines(t *testing.T) {
	for label, dockerd := range testnet.DockerEngines(t) {
		t.Run(label, func(t *testing.T) {
			testnet.CheckLeaks(t)
			e := testnet.StartDockerd(t, testnet.DockerdConfig{Program: dockerd})
			e.Import(t, "app", "ENV BACKEND_80=site", "EXPOSE 8080")
			id := e.Docker(t, "create", "-e", "BACKEND_6379=redis", "app")
			c, err := New(e.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Variables(t.Context(), id)
			if err != nil || !slices.Contains(got, "BACKEND_6379=redis") || !slices.Contains(got, "BACKEND_80=site") {
				t.Errorf("got %q, %v", got, err)
			}
			image, err := c.Image(t.Context(), e.Docker(t, "inspect", "-f", "{{.Image}}", id))
			if err != nil || slices.Contains(image.Variables, "BACKEND_6379=redis") || !slices.Contains(image.Variables, "BACKEND_80=site") {
				t.Errorf("the image has %q, %v", image.Variables, err)
			}
			exposing := e.Docker(t, "create", "--expose", "6379", "-p", "127.0.0.1::53/udp", "app")
			if got, err := c.Exposed(t.Context(), exposing); err != nil || !slices.Equal(got, []Port{{spec.UDP, 53}, {spec.TCP, 6379}, {spec.TCP, 8080}}) {
				t.Errorf("it exposes %v, %v", got, err)
			}
			_, err = c.Variables(t.Context(), idA)
			if err == nil {
				t.Error("a container that is not there has variables")
			}
		})
	}
}
