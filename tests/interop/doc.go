// Package interop checks that taskmux shares queues with Go's asynq as documented.
package interop
