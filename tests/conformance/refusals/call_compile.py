# advice: for patterns use re.compile
compile("1", "x", "eval")
