#include "model/metadata.hpp"
#include "model/tokenizer_base.hpp"

namespace troupe::model {

result<std::shared_ptr<const tokenizer>> make_hf_tokenizer(const metadata& meta) {
  return fail(ec::unsupported, meta.source() + ": tokenizer.json");
}

}  // namespace troupe::model
