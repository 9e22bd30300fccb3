// Package interop holds taskmux to what it promises: that it shares queues with Go's asynq.
package interop
