"""The API's messages and stubs, generated from `proto/intarsia/v1` when the package is built."""
