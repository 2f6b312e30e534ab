# advice: write the statements themselves
exec("x = 1")
