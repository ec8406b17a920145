/* SPDX-License-Identifier: MIT */
/* The Python frames of the calling thread, for Freehold's tracing.
 *
 * It is called in the middle of an allocation, perhaps by a thread that does not hold the
 * interpreter's lock: no object may be made whose making runs the collector, and nothing of another
 * thread's may be looked at.
 */
#if !defined(Py_BUILD_CORE_MODULE)
#define Py_BUILD_CORE_MODULE 1 /* 3.11 shows its frames to nobody else without making objects */
#endif
#include "module.h"

#include <frameobject.h>

/* ---- Names ------------------------------------------------------------------------------------
 */

static const char unknown[] = "<unknown>";

/* Kept by the string, in memory that is not traced; the caller's exception stays. */
static const char *encoded(PyObject *string)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    const char *text = PyUnicode_AsUTF8(string);
    PyErr_Restore(type, value, traceback); /* and what the call may have raised goes */
    return text == NULL ? unknown : text;
}

static const char *text_of(PyObject *name)
{
    if (name == NULL || !PyUnicode_Check(name))
        return unknown;
    if (PyUnicode_IS_COMPACT_ASCII(name))
        return (const char *)PyUnicode_1BYTE_DATA(name);
    return encoded(name);
}

static fh_frame frame_at(PyCodeObject *code, int lineno)
{
    return (fh_frame){text_of(code->co_filename), lineno < 0 ? 0 : (unsigned)lineno, 0};
}

/* ---- The stack --------------------------------------------------------------------------------
 */

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000

#include <internal/pycore_frame.h>

/* Frames that a call is still being made into have no line yet. */
static _PyInterpreterFrame *complete(_PyInterpreterFrame *frame)
{
    while (frame != NULL && _PyFrame_IsIncomplete(frame))
        frame = frame->previous;
    return frame;
}

static fh_frame describe(_PyInterpreterFrame *frame)
{
    int offset = _PyInterpreterFrame_LASTI(frame) * (int)sizeof(_Py_CODEUNIT);
    return frame_at(frame->f_code, PyCode_Addr2Line(frame->f_code, offset));
}

static size_t walk(PyThreadState *state, fh_frame *out, size_t max, size_t *total)
{
    _PyInterpreterFrame *frame = complete(state->cframe->current_frame);
    size_t count = 0;
    for (; frame != NULL; frame = complete(frame->previous)) {
        if (count < max)
            out[count++] = describe(frame);
        *total += 1;
    }
    return count;
}

#else

/* Frame objects are there already up to 3.10. From 3.12 on to make one runs no collector. */
static fh_frame describe(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    fh_frame described = frame_at(code, PyFrame_GetLineNumber(frame));
    Py_DECREF(code); /* the frame has it */
    return described;
}

static size_t walk(PyThreadState *state, fh_frame *out, size_t max, size_t *total)
{
    PyFrameObject *frame = PyThreadState_GetFrame(state);
    size_t count = 0;
    while (frame != NULL) {
        if (count < max)
            out[count++] = describe(frame);
        *total += 1;
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    return count;
}

#endif

/* The calling thread's own state, if it holds the lock with it. */
static PyThreadState *own_state(void)
{
    PyThreadState *current = FH_PYTHON_CURRENT_STATE();
    bool is_own =
        current != NULL && (!FH_PYTHON_HAS_ONE_GIL || current == PyGILState_GetThisThreadState());
    return is_own ? current : NULL;
}

size_t fh_python_frames(void *context, fh_frame *out, size_t max, size_t *total)
{
    PyThreadState *state = own_state();
    (void)context;
    return state == NULL ? 0 : walk(state, out, max, total);
}
