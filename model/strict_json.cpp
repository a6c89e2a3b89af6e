#include "model/strict_json.hpp"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "model/mapped_file.hpp"
#include "model/stored_tensor.hpp"

namespace troupe::model {

namespace {

// First pass: looks, builds nothing. nlohmann's parser keeps its own stack on the heap.
class checker final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit checker(json_limits limits) : limits_(limits) {}
  std::string complaint;

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(std::int64_t) override { return value(); }
  bool number_unsigned(std::uint64_t) override { return value(); }
  bool number_float(double, const std::string&) override { return value(); }
  bool string(std::string&) override { return value(); }
  bool binary(nlohmann::json::binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (!open_.back().insert(name).second)
      return refuse("the key " + printable(name) + " appears twice in one object");
    return value();
  }
  bool parse_error(std::size_t at, const std::string&,
                   const nlohmann::detail::exception&) override {
    return refuse("is not valid JSON at byte " + std::to_string(at));
  }

 private:
  bool refuse(std::string why) {
    complaint = std::move(why);
    return false;
  }
  bool value() {
    return ++values_ <= limits_.values ||
           refuse("holds more than " + std::to_string(limits_.values) + " JSON values");
  }
  bool open() {
    if (open_.size() >= limits_.depth)
      return refuse("nests deeper than " + std::to_string(limits_.depth) + " levels");
    open_.emplace_back();
    return value();
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  json_limits limits_;
  std::uint64_t values_ = 0;
  std::vector<std::unordered_set<std::string>>
      open_;  // keys so far of each open object; empty for an array
};

}  // namespace

result<nlohmann::json> parse_strict_json(std::string_view text, const std::string& source,
                                         json_limits limits) {
  checker check(limits);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &check))
    return fail(ec::corrupt_file, source + ": " + check.complaint);
  return nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
}

result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t limit) {
  TROUPE_TRY(auto file, mapped_file::open(path));
  if (file->bytes().size() > limit)
    return fail(ec::corrupt_file, path.string() + ": is " + std::to_string(file->bytes().size()) +
                                      " bytes long, more than the limit of " +
                                      std::to_string(limit));
  return std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
}

}  // namespace troupe::model
