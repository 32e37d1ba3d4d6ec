package spec

import (
	"net/netip"
	"slices"
	"strings"
)

func proxyOptions() []option {
	return []option{
		{
			OptionInfo{Name: "send-proxy", Kind: "off|v1|v2", Only: "stream", Help: "tell endpoints who the client is, with a PROXY protocol header"},
			func(o *Options, v string) error { return setWord(&o.SendProxy, v, ProxyOff, ProxyV1, ProxyV2) },
			func(o Options) string { return string(o.SendProxy) }, nil,
		},
		{
			OptionInfo{Name: optionAccept, Kind: "PREFIXES", Only: "stream", Help: "who sends such a header to the link: addresses or prefixes with commas, or *"},
			setAcceptProxy,
			func(o Options) string { return o.AcceptProxy }, nil,
		},
	}
}

const optionAccept = "accept-proxy"

// everybody is the accept-proxy of whoever connects.
const everybody = "*"

func setAcceptProxy(o *Options, value string) error {
	if value == "" || value == everybody {
		o.AcceptProxy = value
		return nil
	}
	var list []string
	for _, text := range strings.Split(value, ",") {
		p, err := parsePrefix(text)
		if err != nil {
			return err
		}
		if one := formatPrefix(p); !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	o.AcceptProxy = strings.Join(list, ",")
	return nil
}

// ProxySenders are those whose connections begin with a PROXY header:
// everybody, or the callers in the prefixes. Neither: no header is ever read.
func (o Options) ProxySenders() (prefixes []netip.Prefix, all bool) {
	if o.AcceptProxy == "" || o.AcceptProxy == everybody {
		return nil, o.AcceptProxy == everybody
	}
	for _, text := range strings.Split(o.AcceptProxy, ",") {
		if p, err := parsePrefix(text); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes, false
}

func parsePrefix(text string) (netip.Prefix, error) {
	none := Errorf("write addresses or prefixes like 10.0.0.0/8,192.168.1.5, or * for everybody", "%q is not an address or a prefix", text)
	if text == everybody {
		return netip.Prefix{}, Errorf("write only *, or only addresses and prefixes", "* is everybody, so nobody is left to name")
	}
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, noZone(text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, none
	}
	// Who was meant, one host or the network that it is in?
	if p != p.Masked() {
		return netip.Prefix{}, Errorf("write "+p.Masked().String()+", or the address alone: "+p.Addr().String(),
			"prefix %q has an address that is not its first", text)
	}
	return p, nil
}

func formatPrefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
