"""Several conn servers on one host: a process that holds no client and keeps N that share the client port."""
