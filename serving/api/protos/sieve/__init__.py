"""Protocol buffers of the packages `sieve.*`."""
