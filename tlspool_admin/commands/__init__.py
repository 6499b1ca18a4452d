"""One module per group of commands; each offers add_parser(subparsers) and run(args) -> exit code."""
