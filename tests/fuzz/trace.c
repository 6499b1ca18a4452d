/* What instrumented Python meets at each branch and each comparison: objects among the constants of its code, for
 * tests/fuzz/traced.py.
 *
 * Counters are libFuzzer's inline 8-bit ones, and comparisons tell it of both sides, as clang's would: clang,
 * SanitizerCoverage. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <stdint.h>

enum { MOST = 1 << 16 };

typedef struct {
    uintptr_t pc, flags;
} Pc; /* what __sanitizer_cov_pcs_init reads */

static uint8_t counters[MOST];
static Pc pcs[MOST];
static size_t count;
static void (*told_numbers)(uint64_t, uint64_t), (*told_constant)(uint64_t, uint64_t);
static void (*told_octets)(void *, const void *, const void *, size_t, int);

/* --- a branch: +branch counts it -------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    uint8_t *counter;
} Branch;

static PyObject *branch_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    if (!PyArg_ParseTuple(arguments, "") || names) return NULL;
    Branch *self = (Branch *)type->tp_alloc(type, 0);
    if (self) self->counter = &counters[count++ % MOST]; /* one that is too many shares its counter with another */
    return (PyObject *)self;
}

static PyObject *branch_taken(PyObject *self)
{
    uint8_t *counter = ((Branch *)self)->counter;
    if (*counter < UINT8_MAX) ++*counter;
    return Py_NewRef(self);
}

static PyNumberMethods branch_number = {.nb_positive = branch_taken};
static PyTypeObject branch_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "trace.Branch",
    .tp_doc = "Branch(): +branch says that it was taken.",
    .tp_basicsize = sizeof(Branch),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = branch_new,
    .tp_as_number = &branch_number,
};

/* --- a comparison: comparison[left, right] is left operator right ------------------------------------------ */

typedef struct {
    PyObject_HEAD
    int operator;
    int has_constant;
} Comparison;

static PyObject *comparison_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    int which, has_constant;
    if (!PyArg_ParseTuple(arguments, "ip", &which, &has_constant) || names) return NULL;
    Comparison *self = (Comparison *)type->tp_alloc(type, 0);
    if (self) {
        self->operator = which;
        self->has_constant = has_constant;
    }
    return (PyObject *)self;
}

static int is_number(PyObject *object, int64_t *number)
{
    int too_large;
    if (!PyLong_CheckExact(object)) return 0;
    *number = PyLong_AsLongLongAndOverflow(object, &too_large);
    return !too_large;
}

static size_t octets_of(PyObject *object, const void **octets)
{
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

static PyObject *compare(PyObject *object, PyObject *pair)
{
    Comparison *self = (Comparison *)object;
    if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2)
        return PyErr_Format(PyExc_TypeError, "a comparison has two sides");
    PyObject *left = PyTuple_GET_ITEM(pair, 0), *right = PyTuple_GET_ITEM(pair, 1);
    int64_t first, second;
    const void *ours, *theirs;
    if (told_numbers && is_number(left, &first)) {
        if (is_number(right, &second))
            (self->has_constant ? told_constant : told_numbers)((uint64_t)first, (uint64_t)second);
    } else if (told_octets && (self->operator == Py_EQ || self->operator == Py_NE) && Py_TYPE(left) == Py_TYPE(right)) {
        size_t ours_b = octets_of(left, &ours), theirs_b = octets_of(right, &theirs);
        size_t both_b = ours_b < theirs_b ? ours_b : theirs_b;
        if (both_b) told_octets(self, ours, theirs, both_b, ours_b != theirs_b || memcmp(ours, theirs, both_b) != 0);
    }
    return PyObject_RichCompare(left, right, self->operator);
}

static PyMappingMethods comparison_mapping = {.mp_subscript = compare};
static PyTypeObject comparison_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "trace.Comparison",
    .tp_doc = "Comparison(operator, has_constant): comparison[left, right] is left operator right.\n\n"
              "operator: the number that COMPARE_OP has; has_constant: one side stands in the code.",
    .tp_basicsize = sizeof(Comparison),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = comparison_new,
    .tp_as_mapping = &comparison_mapping,
};

/* --- the module ------------------------------------------------------------------------------------------- */

/* start(path): tell libFuzzer, which is in that shared object and loaded, of the counters of all branches. */
static PyObject *start(PyObject *self, PyObject *path)
{
    static const char *const NAMES[] = {"__sanitizer_cov_8bit_counters_init", "__sanitizer_cov_pcs_init",
                                        "__sanitizer_cov_trace_cmp8", "__sanitizer_cov_trace_const_cmp8",
                                        "__sanitizer_weak_hook_memcmp"};
    void (*take_counters)(uint8_t *, uint8_t *), (*take_pcs)(const Pc *, const Pc *);
    void *found[5], *library;
    const char *name = PyUnicode_AsUTF8(path);
    (void)self;
    if (!name) return NULL;
    if (!(library = dlopen(name, RTLD_NOW | RTLD_NOLOAD))) return PyErr_Format(PyExc_OSError, "%s", dlerror());
    for (int at = 0; at < 5; at++)
        if (!(found[at] = dlsym(library, NAMES[at]))) return PyErr_Format(PyExc_OSError, "%s", dlerror());
    memcpy(&take_counters, &found[0], sizeof take_counters); /* ISO C has no other way from a void * to a function */
    memcpy(&take_pcs, &found[1], sizeof take_pcs);
    memcpy(&told_numbers, &found[2], sizeof told_numbers);
    memcpy(&told_constant, &found[3], sizeof told_constant);
    memcpy(&told_octets, &found[4], sizeof told_octets);
    size_t used = count < MOST ? count : MOST;
    for (size_t at = 0; at < used; at++) pcs[at] = (Pc){at + 1, 0};
    memset(counters, 0, sizeof counters);
    take_counters(counters, counters + used);
    take_pcs(pcs, pcs + used);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"start", start, METH_O, "start(path): tell libFuzzer, which is there, of the counters"},
    {0},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "trace", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_trace(void);
PyMODINIT_FUNC PyInit_trace(void)
{
    PyObject *made = PyModule_Create(&module);
    if (!made || PyModule_AddType(made, &branch_type) || PyModule_AddType(made, &comparison_type)) return NULL;
    return made;
}
