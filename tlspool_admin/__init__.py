"""The operator's faces: clients of the control sockets, with no policy of their own."""
