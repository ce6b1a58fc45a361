"""Training of pafu-mini 2 on one GPU: a pool of clips that is rendered meanwhile, autoencoder, student."""
