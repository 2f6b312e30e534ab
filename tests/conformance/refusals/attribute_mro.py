# advice: use isinstance() or issubclass()
int.mro()
