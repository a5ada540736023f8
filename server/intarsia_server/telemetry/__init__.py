"""What is seen of the server from outside: metrics and traces. Jobs and calls are observed; neither knows of it."""
