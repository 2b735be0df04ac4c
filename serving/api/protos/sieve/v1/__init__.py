"""`sieve.v1`: the .proto files, and what protoc made of them (`make proto`; never edited by hand)."""
