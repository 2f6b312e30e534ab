# advice: write a class statement
type("X", (), {})
