# advice: public methods
(lambda: 0).__code__
