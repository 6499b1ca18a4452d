"""C sources of the OpenSSL provider, and the shared object made of them."""
