"""Training of pafu-mini 2 on one GPU: a pool of clips rendered in parallel, the autoencoder, the student."""
