"""The Intarsia server: rpc -> jobs -> executors -> engine -> ops."""
