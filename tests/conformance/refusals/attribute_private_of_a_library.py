# advice: for classes of your own
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor()._work_queue
