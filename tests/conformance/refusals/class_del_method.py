# advice: use try/finally or a with block
class A:
    def __del__(self):
        pass
