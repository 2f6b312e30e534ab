# advice: these modules are: abc, base64
import left_pad
