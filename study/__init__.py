"""The CIFAR-10 study: sweeps, their cells, and the tables and claims made from them."""
