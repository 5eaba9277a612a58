"""A simulated broker in a process of its own: durable book, TCP on loopback, every way of answering badly. Never real money."""
