#define TROUPE_VECTOR_BYTES 16
#define TROUPE_VOCAB_OPS vocab_ops_portable
#define TROUPE_VOCAB_NAME "portable"
#include "engine/vocab_ops_impl.hpp"
