# advice: let the program end
exit()
