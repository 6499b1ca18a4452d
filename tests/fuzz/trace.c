/* What instrumented Python calls at each branch and each comparison, for tests/fuzz/guided.py.
 *
 * Atheris has the same in C++; what it calls them through takes longer than they do, and a quarter of all the time of a
 * long run.  Counters are libFuzzer's inline 8-bit ones, and comparisons tell it of both sides, as clang's would. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdint.h>

enum { MOST = 1 << 16 };

typedef struct {
    uintptr_t pc, flags;
} Place; /* what __sanitizer_cov_pcs_init reads: clang, SanitizerCoverage */

static uint8_t counters[MOST];
static Place places[MOST];
static Py_ssize_t count;
static void (*told_numbers)(uint64_t, uint64_t), (*told_constant)(uint64_t, uint64_t);
static void (*told_octets)(void *, const void *, const void *, size_t, int);

/* reserve() -> int: the number of one more counter.  One that is too many shares its place with another. */
static PyObject *reserve(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    return PyLong_FromSsize_t(count++ % MOST);
}

/* branch(number): it was taken. */
static PyObject *branch(PyObject *self, PyObject *number) {
    (void)self;
    size_t index = PyLong_AsSize_t(number);
    if (index >= MOST) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_IndexError, "counter %zu", index);
    if (counters[index] < UINT8_MAX) counters[index]++;
    Py_RETURN_NONE;
}

static int is_number(PyObject *object, int64_t *number) {
    int too_large;
    if (!PyLong_CheckExact(object)) return 0;
    *number = PyLong_AsLongLongAndOverflow(object, &too_large);
    return !too_large;
}

static size_t octets_of(PyObject *object, const void **octets) {
    if (PyBytes_CheckExact(object)) {
        *octets = PyBytes_AS_STRING(object);
        return (size_t)PyBytes_GET_SIZE(object);
    }
    if (PyUnicode_CheckExact(object) && PyUnicode_IS_READY(object) && PyUnicode_KIND(object) == PyUnicode_1BYTE_KIND) {
        *octets = PyUnicode_1BYTE_DATA(object);
        return (size_t)PyUnicode_GET_LENGTH(object);
    }
    return 0;
}

/* compare(left, right, operator, number, is_constant): left operator right; number is the counter's. */
static PyObject *compare(PyObject *self, PyObject *const *given, Py_ssize_t size) {
    (void)self;
    if (size != 5) return PyErr_Format(PyExc_TypeError, "compare takes 5 arguments");
    PyObject *left = given[0], *right = given[1];
    int operator= (int) PyLong_AsLong(given[2]);
    int64_t first, second;
    const void *ours, *theirs;
    if (told_numbers && is_number(left, &first)) {
        if (is_number(right, &second))
            (given[4] == Py_True ? told_constant : told_numbers)((uint64_t)first, (uint64_t)second);
    } else if (told_octets && (operator== Py_EQ || operator== Py_NE) && Py_TYPE(left) == Py_TYPE(right)) {
        size_t ours_b = octets_of(left, &ours), theirs_b = octets_of(right, &theirs);
        size_t both_b = ours_b < theirs_b ? ours_b : theirs_b;
        if (both_b) {
            int differ = ours_b != theirs_b || memcmp(ours, theirs, both_b) != 0;
            told_octets((void *)(uintptr_t)(1 + PyLong_AsSize_t(given[3])), ours, theirs, both_b, differ);
        }
    }
    return PyObject_RichCompare(left, right, operator);
}

/* start(path): tell libFuzzer, which is in that shared object and loaded, of all counters that are reserved. */
static PyObject *start(PyObject *self, PyObject *path) {
    (void)self;
    const char *name = PyUnicode_AsUTF8(path);
    if (!name) return NULL;
    void *library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    if (!library) return PyErr_Format(PyExc_OSError, "%s", dlerror());
    void *found[5];
    static const char *const NAMES[] = {"__sanitizer_cov_8bit_counters_init", "__sanitizer_cov_pcs_init",
                                        "__sanitizer_cov_trace_cmp8", "__sanitizer_cov_trace_const_cmp8",
                                        "__sanitizer_weak_hook_memcmp"};
    for (int at = 0; at < 5; at++)
        if (!(found[at] = dlsym(library, NAMES[at]))) return PyErr_Format(PyExc_OSError, "%s", dlerror());
    void (*counts)(uint8_t *, uint8_t *), (*names)(const Place *, const Place *);
    memcpy(&counts, &found[0], sizeof counts); /* ISO C knows no other way from a void * to a function */
    memcpy(&names, &found[1], sizeof names);
    memcpy(&told_numbers, &found[2], sizeof told_numbers);
    memcpy(&told_constant, &found[3], sizeof told_constant);
    memcpy(&told_octets, &found[4], sizeof told_octets);
    Py_ssize_t used = count < MOST ? count : MOST;
    for (Py_ssize_t at = 0; at < used; at++) places[at] = (Place){(uintptr_t)at + 1, 0};
    memset(counters, 0, sizeof counters);
    counts(counters, counters + used);
    names(places, places + used);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"reserve", reserve, METH_NOARGS, "reserve() -> int: the number of one more counter"},
    {"branch", branch, METH_O, "branch(number): it was taken"},
    {"compare", (PyCFunction)(void (*)(void))compare, METH_FASTCALL, "compare(left, right, operator, number, constant)"},
    {"start", start, METH_O, "start(path): tell libFuzzer, which is there, of the counters"},
    {0},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "trace", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_trace(void);
PyMODINIT_FUNC PyInit_trace(void) { return PyModule_Create(&module); }
