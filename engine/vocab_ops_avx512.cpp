#define TROUPE_VECTOR_BYTES 64
#define TROUPE_VOCAB_OPS vocab_ops_avx512
#define TROUPE_VOCAB_NAME "avx512"
#include "engine/vocab_ops_impl.hpp"
