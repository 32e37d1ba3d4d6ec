// Package machine reads what a load costs: the CPU time of a process with its
// children, how busy the whole machine was, memory on both sides of the system
// call line, and whether something else was at work meanwhile. Linux only.
package machine
