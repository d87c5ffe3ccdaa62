// The views of ndarray 1.0 on a typed array, for any number of axes. The package itself writes a script for each element
// type and number of axes and lets the browser compile it, which the page's Content-Security-Policy forbids.
function viewConstructor(dtype, dimension, views, order) {
  const isGeneric = dtype === "generic";
  const isPlace = (i) => typeof i === "number" && i >= 0;

  class View {
    constructor(data, shape, stride, offset) {
      this.data = data;
      this.shape = shape;
      this.stride = stride;
      this.offset = offset | 0;
    }
    get dtype() {
      return dtype;
    }
    get dimension() {
      return dimension;
    }
    get size() {
      return this.shape.reduce((product, extent) => product * extent, 1);
    }
    get order() {
      return order.call(this);
    }
    index(...at) {
      let index = this.offset;
      for (let axis = 0; axis < dimension; axis++) {
        index += this.stride[axis] * at[axis];
      }
      return index;
    }
    get(...at) {
      const index = this.index(...at);
      return isGeneric ? this.data.get(index) : this.data[index];
    }
    set(...at) {
      const index = this.index(...at);
      const value = at[dimension];
      return isGeneric ? this.data.set(index, value) : (this.data[index] = value);
    }
    hi(...to) {
      const shape = this.shape.map((extent, axis) => (isPlace(to[axis]) ? to[axis] | 0 : extent));
      return new View(this.data, shape, [...this.stride], this.offset);
    }
    lo(...from) {
      const begin = this.shape.map((_, axis) => (isPlace(from[axis]) ? from[axis] | 0 : 0));
      const shape = this.shape.map((extent, axis) => extent - begin[axis]);
      return new View(this.data, shape, [...this.stride], this.index(...begin));
    }
    step(...by) {
      const shape = [...this.shape];
      const stride = [...this.stride];
      let offset = this.offset;
      for (let axis = 0; axis < dimension; axis++) {
        if (typeof by[axis] === "number") {
          const step = by[axis] | 0;
          if (step < 0) {
            offset += stride[axis] * (shape[axis] - 1);
          }
          shape[axis] = Math.ceil(shape[axis] / Math.abs(step));
          stride[axis] *= step;
        }
      }
      return new View(this.data, shape, stride, offset);
    }
    transpose(...axes) {
      const from = this.shape.map((_, axis) => (axes[axis] === undefined ? axis : axes[axis] | 0));
      const shape = from.map((axis) => this.shape[axis]);
      const stride = from.map((axis) => this.stride[axis]);
      return new View(this.data, shape, stride, this.offset);
    }
    pick(...at) {
      if (dimension === 0) {
        return views[0](this.data);
      }
      const kept = this.shape.map((_, axis) => axis).filter((axis) => !isPlace(at[axis]));
      const offset = this.index(...this.shape.map((_, axis) => (isPlace(at[axis]) ? at[axis] : 0)));
      const [shape, stride] = [this.shape, this.stride].map((values) => kept.map((axis) => values[axis]));
      return views[kept.length + 1](this.data, shape, stride, offset);
    }
    valueOf() {
      return dimension === 0 ? this.get() : this;
    }
  }

  // The view of nothing, of -1 axes: what is left when a view without axes is picked from.
  class Nothing extends View {
    get size() {
      return 0;
    }
    index() {
      return -1;
    }
    get() {}
    set() {}
    hi() {
      return new Nothing(this.data, [], [], 0);
    }
    lo() {
      return this.hi();
    }
    step() {
      return this.hi();
    }
    transpose() {
      return this.hi();
    }
    pick() {
      return null;
    }
  }

  const axes = Math.max(dimension, 0);
  return (data, shape, stride, offset) => {
    const Kind = dimension < 0 ? Nothing : View;
    return new Kind(data, (shape ?? []).slice(0, axes), (stride ?? []).slice(0, axes), offset);
  };
}
