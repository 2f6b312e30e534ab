# advice: use print()
breakpoint()
