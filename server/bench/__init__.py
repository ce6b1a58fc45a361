"""``pafu bench``: what this machine does, measured over sockets as viewers see it."""
