"""``pafu bench``: performance of this machine, measured over sockets as viewers see it."""
