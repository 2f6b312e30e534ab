# advice: cannot be imported
import _thread
