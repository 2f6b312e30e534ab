# advice: write down what you need
import inspect
