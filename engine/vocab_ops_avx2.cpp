#define TROUPE_VECTOR_BYTES 32
#define TROUPE_VOCAB_OPS vocab_ops_avx2
#define TROUPE_VOCAB_NAME "avx2"
#include "engine/vocab_ops_impl.hpp"
