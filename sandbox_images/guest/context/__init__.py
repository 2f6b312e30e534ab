"""The context as a program sees it, while its text stays outside; and libraries that accept it as a real text."""
