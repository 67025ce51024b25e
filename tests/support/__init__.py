"""What the tests share: histories, faults, servers, processes."""
