"""The gRPC surface as protocol buffers, one folder per package and version."""
