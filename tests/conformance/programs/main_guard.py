# expect: ran as __main__
def main():
    print("ran as", __name__)

if __name__ == "__main__":
    main()
