// Webui serves asynq's web UI, asynqmon, on a free port of this machine until its input ends. It prints its address.
//
//	webui <Unix socket of Redis>
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
)

func main() {
	ui := asynqmon.New(asynqmon.Options{RedisConnOpt: asynq.RedisClientOpt{Network: "unix", Addr: os.Args[1]}})
	defer ui.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	go func() { log.Fatal(http.Serve(listener, ui)) }()
	io.Copy(io.Discard, os.Stdin)
}
