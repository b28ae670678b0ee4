"""How runs and their steps execute: processes, devices, signals, databases and what people see of them."""
