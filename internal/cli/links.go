package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"legate/internal/daemon"
	"legate/internal/spec"
)

// linkFlags are the flags that say what links are.
type linkFlags struct {
	options *spec.Options
	bind    *string
	dns     *[]string
	names   []string
}

func newLinkFlags() linkFlags {
	o, bind := spec.DefaultOptions(), ""
	return linkFlags{options: &o, bind: &bind, dns: new([]string)}
}

// add makes a flag of every option that is not only for one link.
func (f *linkFlags) add(c *cobra.Command) {
	for _, info := range spec.OptionHelp() {
		if info.PerLink {
			continue
		}
		c.Flags().Var(optionFlag{f.options, info}, info.Name, info.Help)
		f.names = append(f.names, info.Name)
	}
	c.Flags().Var(bindFlag{f.bind}, "bind", "address of links that name none (default every address)")
	c.Flags().Var(dnsFlag{f.dns}, "dns", "name servers to ask, with commas between them (default those of /etc/resolv.conf)")
	f.names = append(f.names, "bind", "dns")
}

// sources says how the sources of targets are reached.
func (f linkFlags) sources(p Process) daemon.SourceConfig {
	return daemon.SourceConfig{Environ: p.Environ, DNS: *f.dns}
}

// optionFlag leaves reading and checking to the one parser of options.
type optionFlag struct {
	options *spec.Options
	info    spec.OptionInfo
}

func (f optionFlag) String() string {
	if f.options == nil {
		return ""
	}
	return spec.OptionValue(*f.options, f.info.Name)
}
func (f optionFlag) Type() string       { return f.info.Kind }
func (f optionFlag) Set(s string) error { return spec.SetOption(f.options, f.info.Name, s) }

type bindFlag struct{ address *string }

func (f bindFlag) String() string {
	if f.address == nil {
		return ""
	}
	return *f.address
}
func (f bindFlag) Type() string { return "ADDRESS" }

func (f bindFlag) Set(s string) error {
	_, err := spec.ParseBind(s)
	if err == nil {
		*f.address = s
	}
	return err
}

type dnsFlag struct{ servers *[]string }

func (f dnsFlag) String() string {
	if f.servers == nil {
		return ""
	}
	return strings.Join(*f.servers, ",")
}
func (f dnsFlag) Type() string { return "ADDRESS[:PORT]" }

func (f dnsFlag) Set(s string) error {
	list := strings.Split(s, ",")
	err := daemon.CheckDNS(list)
	if err == nil {
		*f.servers = append(*f.servers, list...) // as with docker's flag of the name
	}
	return err
}

func (f linkFlags) config() spec.ParseConfig {
	return spec.ParseConfig{Options: *f.options, Bind: *f.bind}
}

func (f linkFlags) parse(c *cobra.Command, args []string) ([]spec.Link, error) {
	links, err := spec.ParseLinks(args, f.config())
	if err != nil {
		return nil, asUsage(c.Root(), err)
	}
	return links, nil
}
