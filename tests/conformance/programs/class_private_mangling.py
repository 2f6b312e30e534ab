# expect: 7 True False
class Account:
    __slots__ = ("__balance", "owner")
    def __init__(self, owner):
        self.owner = owner
        self.__balance = 0
    def add(self, n):
        self.__balance += n
        return self
    def balance(self):
        return self.__balance
a = Account("ann").add(3).add(4)
print(a.balance(), hasattr(a, "_Account__balance"), hasattr(a, "nothing"))
