// Package peers knows the proxies that are compared: how each is started in its
// best configuration, which version it is, and when it is ready. Linux only.
package peers
