// Values of the template engine, after Python's: lists, dicts and objects are references into the heap of one
// render, which frees them together (cycles and deep nesting included). One render, one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.hpp"
#include "model/jinja_text.hpp"

namespace troupe::model::jinja {

struct list;
struct dict;
class object;
class interpreter;

struct undefined {};
struct none {};

class value {
 public:
  value() = default;
  value(none) : storage_(none{}) {}
  value(bool flag) : storage_(flag) {}
  value(std::int64_t number) : storage_(number) {}
  value(double number) : storage_(number) {}
  value(text string) : storage_(std::make_shared<const text>(std::move(string))) {}
  value(list* items) : storage_(items) {}
  value(dict* items) : storage_(items) {}
  value(object* thing) : storage_(thing) {}
  value(const void*) = delete;  // no pointer is a bool
  static value literal(std::string_view string) {
    return text(std::string(string), origin::source);
  }
  static value number(std::size_t n) { return value(static_cast<std::int64_t>(n)); }

  bool is_undefined() const { return std::holds_alternative<undefined>(storage_); }
  bool is_none() const { return std::holds_alternative<none>(storage_); }
  const bool* boolean() const { return std::get_if<bool>(&storage_); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&storage_); }
  const double* real() const { return std::get_if<double>(&storage_); }
  const text* string() const {
    const auto* held = std::get_if<std::shared_ptr<const text>>(&storage_);
    return held ? held->get() : nullptr;
  }
  list* as_list() const { return get_or_null<list>(); }
  dict* as_dict() const { return get_or_null<dict>(); }
  object* as_object() const { return get_or_null<object>(); }

  // Of an int or a bool.
  std::optional<std::int64_t> as_integer() const;
  // Of any number or a bool.
  std::optional<double> as_real() const;
  bool truthy() const;
  // Python's name, for messages: "str", "NoneType".
  std::string_view type_name() const;

 private:
  template <class T>
  T* get_or_null() const {
    T* const* held = std::get_if<T*>(&storage_);
    return held ? *held : nullptr;
  }

  std::variant<undefined, none, bool, std::int64_t, double, std::shared_ptr<const text>, list*,
               dict*, object*>
      storage_;
};

struct list {
  std::vector<value> items;
  bool tuple = false;  // only prints differently
};

// Keeps the order of insertion.
struct dict {
  std::vector<std::pair<value, value>> items;
  bool is_namespace = false;  // attributes can be set, and none is a method

  const value* find(std::string_view key) const;
  void set(std::string_view key, value to, origin from);
};

struct arguments {
  std::vector<value> positional;
  std::vector<std::pair<std::string_view, value>> keyword;

  // By position, else by name, else nullptr.
  const value* get(std::size_t index, std::string_view name) const;
};

// What is neither data nor text: macros, functions, bound methods, `loop`.
class object {
 public:
  virtual ~object() = default;
  virtual std::string_view type_name() const = 0;
  virtual value attribute(interpreter&, std::string_view) { return {}; }
  virtual bool callable() const { return false; }
  virtual result<value> call(interpreter& in, const arguments& args);
};

class heap {
 public:
  list* make_list() { return &lists_.emplace_back(); }
  dict* make_dict() { return &dicts_.emplace_back(); }
  template <class T, class... Args>
  T* make_object(Args&&... args) {
    auto owned = std::make_unique<T>(std::forward<Args>(args)...);
    T* made = owned.get();
    objects_.push_back(std::move(owned));
    return made;
  }

 private:
  std::deque<list> lists_;
  std::deque<dict> dicts_;
  std::vector<std::unique_ptr<object>> objects_;
};

// Python's repr of a float: the shortest digits that read back the same.
std::string format_real(double number);

}  // namespace troupe::model::jinja
