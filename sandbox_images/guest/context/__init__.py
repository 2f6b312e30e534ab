"""The context as a program sees it, while its text stays outside; and the libraries that take it for a real one."""
