/* SPDX-License-Identifier: MIT */
/* freehold-python with a libpython linked in: the fallback, see launcher.c. */
#include "bridge.h"

int main(int count, char **arguments)
{
    fh_python_start(count, arguments);
    return Py_BytesMain(count, arguments);
}
